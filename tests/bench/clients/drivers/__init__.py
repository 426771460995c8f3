"""Programs that drive one client each, run by the Python or Node that has it."""
