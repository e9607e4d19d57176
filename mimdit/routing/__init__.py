"""Routing: what the gates read, what they decide, and what keeps every expert in use."""

from mimdit.routing.balance import RoutingBalance
from mimdit.routing.router import Router, router_features
from mimdit.routing.routing import Gates, Routing

__all__ = ["Gates", "Router", "Routing", "RoutingBalance", "router_features"]
