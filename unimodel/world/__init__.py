"""The live world: stepped by the model frame by frame. Importing it registers `unimodel/World-v0` with gymnasium."""

import gymnasium

gymnasium.register(
    "unimodel/World-v0",
    entry_point="unimodel.world.env:WorldModelEnv",
    vector_entry_point="unimodel.world.env:WorldModelVectorEnv",
)
