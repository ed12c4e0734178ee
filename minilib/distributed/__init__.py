"""Many ranks: neighbour exchange and collectives (`ring_comm`), launch and gradient average (`ranks`)."""
