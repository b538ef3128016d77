"""The only place that wires stages and hands callables down."""
