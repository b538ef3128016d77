// Choose a photograph and see what the network says.

import PhotosUI
import QtoolsPreparation
import QtoolsVision
import SwiftUI

@main
struct SampleApp: App {
    var body: some Scene {
        WindowGroup { AnswersView() }
    }
}

struct AnswersView: View {
    @State private var chosen: PhotosPickerItem?
    @State private var answers: [Top] = []
    @State private var message = "Choose a picture"
    @State private var classifier: Classifier?

    var body: some View {
        NavigationStack {
            List {
                Text(message)
                ForEach(answers, id: \.index) { answer in
                    LabeledContent(
                        answer.label.isEmpty ? "class \(answer.index)" : answer.label,
                        value: answer.probability.formatted(.percent.precision(.fractionLength(1))))
                }
            }
            .toolbar { PhotosPicker("Picture", selection: $chosen, matching: .images) }
        }
        .onChange(of: chosen) {
            Task { await answer() }
        }
    }

    @MainActor
    private func answer() async {
        do {
            guard let data = try await chosen?.loadTransferable(type: Data.self) else { return }
            let opened: Classifier
            if let ready = classifier {
                opened = ready
            } else {
                opened = try await Classifier.carried()
                classifier = opened
            }
            let picture = try Picture(encoded: data)
            let start = ContinuousClock.now
            answers = try opened.classify(picture)
            message = "\(picture.width) x \(picture.height), \(ContinuousClock.now - start)"
        } catch {
            answers = []
            message = "\(error)"
        }
    }
}
