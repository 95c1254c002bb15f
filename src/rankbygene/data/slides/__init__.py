"""What sits where: slides, images, scale and spots."""
