"""What is in a network, a schedule or an engine, as text and as diagrams."""
