"""What only released weights of CosyVoice 2 and 3 need, and both share: tokenizer, text front end, codec, check, rehearsal, export."""
