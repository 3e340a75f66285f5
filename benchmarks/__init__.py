"""How fast it is, against everything else there is. ``make bench`` runs it; see performance.md."""
