"""Pages, tables and figures from run folders; nothing here imports torch."""
