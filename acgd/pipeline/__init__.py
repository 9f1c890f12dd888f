"""One run from its prompt to a finished folder."""

import os

# torch's threads, which it starts when it is imported, wait asleep: spinning ones starve each other
# where the cores are shared, and a picture then takes ten times as long
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
