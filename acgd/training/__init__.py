"""What trained the embedded models; inference reads nothing in here."""
