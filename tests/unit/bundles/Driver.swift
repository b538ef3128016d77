// Runs a package's arithmetic over the cases that test_ios.py lays down in a folder, and leaves what came of them under the
// names that the translation for Node uses.

import Foundation

struct Case: Decodable {
    let height: Int
    let width: Int
    let contract: Contract
}

struct Drawn: Decodable {
    let codes: [Float]
    let contract: Contract
}

struct Detected: Decodable {
    let logits: [Float]
    let boxes: [Float]
    let contract: Contract
}

struct Object: Encodable {
    let index: Int
    let label: String
    let score: Double
    let box: [Double]
}

struct Likely: Encodable {
    let index: Int
    let label: String
    let probability: Double
}

struct Answered: Encodable {
    let numbers: [Float]
    let top: [Likely]
    let all: Int
}

struct Turned: Encodable {
    let height: Int
    let width: Int
    let rgb: [UInt8]
}

let folder = URL(fileURLWithPath: CommandLine.arguments[1])
let decoder = JSONDecoder()
decoder.keyDecodingStrategy = .convertFromSnakeCase

func content(_ name: String) throws -> Data { try Data(contentsOf: folder.appendingPathComponent(name)) }

func leave<Value: Encodable>(_ value: Value, _ name: String) throws {
    try JSONEncoder().encode(value).write(to: folder.appendingPathComponent(name))
}

let cases = try decoder.decode([Case].self, from: content("cases.json"))
func picture(_ number: Int) throws -> Picture {
    Picture(height: cases[number].height, width: cases[number].width, rgb: [UInt8](try content("\(number).rgb")))
}

var back: [Bool] = []
for (number, each) in cases.enumerated() {
    let tensor = prepare(try picture(number), each.contract)
    let raw = bytes(of: tensor, as: each.contract.input.dtype)
    try Data(raw).write(to: folder.appendingPathComponent("\(number).out"))
    back.append(numbers(of: raw, as: each.contract.input.dtype) == tensor)
    if each.contract.input.dtype == .uint8 {
        try Data(bgra(tensor, each.contract)).write(to: folder.appendingPathComponent("\(number).bgra"))
    }
}
try leave(back, "back.json")

let answers = try decoder.decode([Drawn].self, from: content("answers.json"))
try leave(
    answers.map { each in
        let real = realNumbers(each.codes, each.contract)
        let top = likeliest(real, each.contract, count: 3)
        return Answered(
            numbers: real, top: top.map { Likely(index: $0.index, label: $0.label, probability: $0.probability) },
            all: likeliest(real, each.contract, count: 99).count)
    }, "tops.json")

let detectors = try decoder.decode([Detected].self, from: content("detectors.json"))
try leave(
    detectors.map { each in
        detect(each.logits, each.boxes, each.contract).map {
            Object(index: $0.index, label: $0.label, score: $0.score, box: $0.box)
        }
    }, "found.json")

let box = try decoder.decode([Double].self, from: content("box.json"))
try leave(
    cases.map { uncut(box, height: $0.height, width: $0.width, $0.contract.preparation) }, "uncut.json")

let first = try picture(0)
try leave(
    [1, 2, 3, 4, 5, 6, 7, 8, 0, 9].map { exif in
        let found = upright(first, exif: exif)
        return Turned(height: found.height, width: found.width, rgb: found.rgb)
    }, "upright.json")

let strides = try decoder.decode([[[Int]]].self, from: content("strides.json"))
try leave(strides.map { places(shape: $0[0], strides: $0[1]) }, "places.json")
