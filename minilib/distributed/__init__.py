"""Many ranks: neighbour exchange and collectives (`ring_comm`), equal starts and gradient average (`ranks`)."""
