"""What only the released Voxtral needs: its codec's decoder, its voices, its layout, its export. The tiny profile loads none of it."""
