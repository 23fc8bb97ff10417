-- What a key is restricted to. No row: no key of this id was ever made, as where none are asked for.
select models, endpoints, lanes from infermq.api_keys where id = $1
