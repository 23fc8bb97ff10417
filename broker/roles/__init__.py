"""What runs by itself in a broker process.

relay      stays in the middle of every interactive request
reserves   what this broker's relay has out of the reserves for interactive requests
tasks      what runs beside a role
"""
