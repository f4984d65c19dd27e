"""Tables and pictures, made from records and detections alone."""
