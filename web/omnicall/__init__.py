"""What programs import of omnicall: `omnicall.client`."""
