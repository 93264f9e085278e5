"""The live world: stepped by the model frame by frame."""
