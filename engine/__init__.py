"""One engine process per GPU (or one on the CPU): audio, pictures and text in, speech out."""
