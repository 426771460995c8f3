"""Building blocks shared by the models; torch only, no session state."""
