select job, attempt, deployment, model, lane, tenant, tokens, ward from infermq.running
