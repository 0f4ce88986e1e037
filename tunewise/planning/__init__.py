"""Before anything is spent: what a method would train and store, and the memory and time that takes."""
