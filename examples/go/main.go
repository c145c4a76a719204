// A child of runqy's worker in Go: handle.go is yours, this file is the protocol of its children.
package main

import (
	"encoding/json"
	"errors"
	"log"
	"os"
)

type object map[string]any

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	out.Encode(object{"status": "ready"})
	for in.More() {
		var task struct {
			ID      string `json:"task_id"`
			Payload json.RawMessage
		}
		if err := in.Decode(&task); err != nil {
			log.Fatal(err)
		}
		progress := func(current, total int) {
			out.Encode(object{"progress": object{"current": current, "total": total}})
		}
		result, err := handle(task.Payload, progress)
		response := object{"task_id": task.ID, "result": result}
		if err != nil {
			response = object{"task_id": task.ID, "error": err.Error(), "retry": errors.As(err, &temporary{})}
		}
		out.Encode(response)
	}
}
