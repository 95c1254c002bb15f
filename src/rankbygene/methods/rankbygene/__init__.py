"""RankByGene."""
