"""Trained policies in other programs: loading, planning, adapting, saving, export, pictures and the command."""
