"""The parts of MiniCPM-o 4.5 as torch modules; none holds the state of a session."""
