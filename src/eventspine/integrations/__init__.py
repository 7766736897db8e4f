"""eventspine inside the programs that people have. Nothing here is imported unless it is asked for."""
