"""What only released weights need: the 12 Hz codec, the speaker vector's mel, and the check of a folder before it is used."""
