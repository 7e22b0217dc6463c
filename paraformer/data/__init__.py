"""What Para-Formers are trained on: images and texts with labels, from public sets and from files of the user's own."""
