"""What a model remembers beyond its window: mechanisms of one protocol, and the segments between which it passes."""
