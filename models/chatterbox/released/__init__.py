"""What only released weights need: the voice encoder, the S3 codec with its reference, and the check of a folder before it is used."""
