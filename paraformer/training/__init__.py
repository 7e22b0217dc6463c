"""How Para-Formers and their serial twins learn: starts, objectives, the run itself, and what is told of it."""
