"""The arena: methods compete under equal conditions, and every result can be reproduced."""
