"""What only the released S2 Pro needs: its codec, its layout, its export. The tiny profile loads none of it."""
