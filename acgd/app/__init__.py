"""The page to play with: `acgd app`. It writes the same run folders as the command line."""
