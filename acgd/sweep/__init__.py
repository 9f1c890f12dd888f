"""Many jobs: composed, launched, kept an eye on."""
