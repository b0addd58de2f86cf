"""Recording a model, planning its conversion, and changing it."""
