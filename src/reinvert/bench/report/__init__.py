"""Reports: tables, pages and comparisons of what was scored."""
