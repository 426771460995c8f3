"""The pages served to browsers: plain ES modules and style sheets, no build step."""
