"""What only VoxCPM's released weights need: the AudioVAE, and the folder that it comes in."""
