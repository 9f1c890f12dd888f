"""From a composed config to objects, and what can be wrong with one."""
