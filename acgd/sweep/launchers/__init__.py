"""Where a sweep's jobs run: here, in other processes, on clusters."""
