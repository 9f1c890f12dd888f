"""A loss a file, named for its key in conf/guidance/*.yaml."""
