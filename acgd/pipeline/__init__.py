"""One run from its prompt to a finished folder."""

import os

# torch's threads, which it starts when it is imported, wait asleep: spinning ones starve each other
# where the cores are shared, and a picture then takes ten times as long
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# cuBLAS, which reads it when it is first used, adds up in the same order each time
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
