"""A trained policy for other programs: load, plan, adapt, save, export, pictures, and the command."""
