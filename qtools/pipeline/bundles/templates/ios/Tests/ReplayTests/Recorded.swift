// What vectors.json says, as far as the replay needs it.

struct Recorded: Codable {
    let artifactSha256: String
    let tolerance: Tolerance
    let boxesTolerance: Tolerance?
    let vectors: [RecordedVector]
}

struct Tolerance: Codable {
    let value: Double
}

struct RecordedVector: Codable {
    let name: String
    let height: Int
    let width: Int
    let png: String
    let rgb: String
    let input: String
    let output: String
    let boxes: String?
    let found: [RecordedObject]?
}

struct RecordedObject: Codable {
    let index: Int
    let score: Double
    let box: [Double]
}
