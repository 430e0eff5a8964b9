"""What a recipe takes before it is started: memory, disk, time and price, as pure functions on plain data."""
