"""What goes wrong in a simulated world.

kinds       what can go wrong                 schedule    what does, with whom and when, drawn from a seed
happening   lets it happen                    waits       where code of ours waits, and a process may die
"""
