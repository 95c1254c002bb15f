"""Self-supervised pretraining of an encoder by SimCLR."""
