"""From adapter to answer."""
