"""What only the released weights need (index-tts/index-tts, IndexTTS2)."""
