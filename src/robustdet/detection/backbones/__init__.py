"""Networks that a detector's maps come from; one file each, and a yaml in conf/model. What they are: `backbone.py`."""
