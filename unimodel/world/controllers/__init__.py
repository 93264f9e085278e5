"""Who acts in a world, real or imagined, by what it shows."""
