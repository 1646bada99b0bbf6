"""Feature maps of convolutional nets: hints, attention transfer, neuron selectivity."""
